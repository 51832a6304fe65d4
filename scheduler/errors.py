"""The core's few errors: a broken contract, never a bad request or a failed instance."""


class SchedulerError(Exception):
    """Base of all errors raised by the core."""


class ConfigError(SchedulerError, ValueError):
    """A configuration value breaks its rule; the message names the field, the rule and the value."""


class ContractError(SchedulerError):
    """The driver broke the contract of `Scheduler.handle`, for example by reusing a request id that is in flight."""
