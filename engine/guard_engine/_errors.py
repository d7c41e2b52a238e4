"""The error tree. Each message says what is wrong and, where it can, what to do."""


class EngineError(Exception):
    """The base of every error that the engine raises or delivers."""


class CheckpointInvalid(EngineError):
    """The checkpoint can't be built: missing, damaged, or not a plain Qwen3."""


class RequestInvalid(EngineError):
    """The request can never be served as it is. Raised by `Engine.submit`."""


class RequestCancelled(EngineError):
    """The request was cancelled before it finished. Delivered, never raised."""


class StepFailed(EngineError):
    """The model failed in a step that held this request. Delivered, never raised."""


class EngineClosed(EngineError):
    """The engine was closed: raised by `submit`, delivered to requests that were left."""
