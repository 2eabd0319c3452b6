"""The Kubernetes API over HTTPS, driven by the table of resources and the definitions' schemas."""
