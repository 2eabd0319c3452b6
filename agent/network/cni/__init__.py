"""Other network plugins in place of the built-in one: chains of CNI executables."""
