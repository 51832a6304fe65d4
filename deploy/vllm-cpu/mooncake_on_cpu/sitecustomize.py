"""vLLM's MooncakeConnector asks torch which accelerator it runs on, which is an error on the CPU: it is the first one.
Python reads this when it starts, where the folder is on its path."""

import sys

if "vllm" in " ".join(sys.orig_argv) or "spawn_main" in " ".join(sys.orig_argv):
    import torch

    torch.accelerator.current_device_index = lambda: 0
