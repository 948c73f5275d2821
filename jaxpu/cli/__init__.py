"""The commands of `jaxpu`, one module each: a dataclass of arguments, examples and `run(args) -> Answer`.

A command imports JAX, TensorFlow and the modules that use them inside `run`, so that help and completion do not wait for them.
"""
