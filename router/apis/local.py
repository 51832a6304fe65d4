"""What the gateway answers itself."""

from dualmap.router.apis.api import Api, Placement

MODELS = Api("models", Placement.HERE)
MODEL = Api("model", Placement.HERE)
HEALTH = Api("health", Placement.HERE)
READY = Api("ready", Placement.HERE)
