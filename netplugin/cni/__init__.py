"""The plugin as an executable for other runtimes: CNI, https://www.cni.dev/docs/spec/."""
