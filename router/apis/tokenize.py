"""Texts to token ids and back."""

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.named_model import read_model

TOKENIZE = Api("tokenize", Placement.LOAD, read=read_model)
