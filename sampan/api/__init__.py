"""The Kubernetes API as data: types, the table of resources, errors, quantities, selectors and the codec."""
