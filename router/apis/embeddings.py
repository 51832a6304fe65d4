"""Embeddings, and what else pooling models answer: scores, rankings, classes. Their prompts are read once and leave no
cache worth finding."""

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.named_model import read_model

EMBEDDINGS = Api("embeddings", Placement.LOAD, read=read_model, operation="embeddings", takes_salt=True)
POOLING = Api("pooling", Placement.LOAD, read=read_model, takes_salt=True)
