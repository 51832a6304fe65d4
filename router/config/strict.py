"""What all sections of a deployment file have in common: unknown keys are errors, and what is read does not change."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from dualmap.router.http.limits import HttpLimits
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity

STRICT = ConfigDict(extra="forbid", frozen=True)
for _settings in (SchedulerConfig, ScalingConfig, RoleBounds, InstanceCapacity, HttpLimits):
    # Plain dataclasses, so that what uses them needs no pydantic. Read from a file, their unknown keys are errors, too.
    setattr(_settings, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010

AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0 takes a free one
