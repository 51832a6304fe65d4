"""Audio in, text out, as forms with a file: transcriptions and translations; and speech."""

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.named_model import read_model

AUDIO = Api("audio", Placement.LOAD, read=read_model)
