"""Whatever else stands below /v1: passed on to the instance with the least to do, whose answer it gets."""

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.named_model import read_model

OTHER = Api("other", Placement.LOAD, read=read_model, takes_salt=True)
