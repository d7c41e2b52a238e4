"""The gRPC services that callers use, and the protobuf messages at their edge."""
