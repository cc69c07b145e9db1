"""Server reflection, in the versions v1 and v1alpha.

grpcio-reflection has v1alpha only. The messages of v1 are the same under another package name.
"""

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]  # ships none

_V1 = "grpc.reflection.v1.ServerReflection"
SERVICE_NAMES = (_V1, reflection.SERVICE_NAME)
"""The full names of both versions."""


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Let callers ask a server which of these services it has, and what their messages are."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    renamed = text_format.MessageToString(file).replace("v1alpha", "v1")
    v1 = text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())
    names = (*services, *SERVICE_NAMES)
    reflection.enable_server_reflection(names, server)
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(_V1, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handler,))
