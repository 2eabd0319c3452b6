"""The container engine: an async protocol with typed states, Docker behind it, and a fake."""
