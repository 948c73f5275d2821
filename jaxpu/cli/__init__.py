"""The commands of `jaxpu`, one module each: a class of arguments, examples and `run(args) -> Answer`.

They import what works only where they call it, so that help and completion do not wait for JAX.
"""
