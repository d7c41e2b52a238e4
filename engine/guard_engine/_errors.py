"""The engine's errors. Each message says what is wrong and, where possible, what to do."""


class EngineError(Exception):
    """The base of all errors that the engine raises or delivers to a callback."""


class CheckpointInvalid(EngineError):
    """The checkpoint is missing, damaged, or not a plain Qwen3."""


class BadRequest(EngineError):
    """The request can't be served as it is, now or later. Raised by `Engine.submit`."""


class RequestCancelled(EngineError):
    """The request was cancelled before it completed. Delivered, never raised."""


class StepFailed(EngineError):
    """The model failed in a step that held this request. Delivered, never raised."""


class EngineClosed(EngineError):
    """The engine has stopped. Raised by `submit`, and delivered to requests in flight."""
