"""Pictures made, changed and varied: JSON, or forms with files."""

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.named_model import read_model

IMAGES = Api("images", Placement.LOAD, read=read_model)
