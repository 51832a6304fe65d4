"""LoRA adapters, loaded and unloaded in a run: on every instance or on none."""

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.named_model import read_model

ADAPTERS = Api("adapters", Placement.ALL, read=read_model)
