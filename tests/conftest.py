"""What all tests share.  JAX reads these variables when it is first imported, so they are set before any test module is.

They are inherited by the programs that tests start.
"""

import os

# Eight simulated devices, so that one machine without accelerators runs the code for several.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Shapes and dtypes never adapt by themselves: what looks like broadcasting is often a missing axis.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
# TensorFlow and matplotlib stay quiet, off the GPU and off the screen.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
