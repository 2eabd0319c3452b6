from typing import Any

import grpc
import grpc.aio

from sampan.pb import node_pb2

class NodeServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    Sync: grpc.aio.StreamStreamMultiCallable[node_pb2.AgentMessage, node_pb2.MasterMessage]
    Stream: grpc.aio.StreamStreamMultiCallable[node_pb2.Frame, node_pb2.Frame]
    Renew: grpc.aio.UnaryUnaryMultiCallable[node_pb2.RenewRequest, node_pb2.RenewReply]
    Review: grpc.aio.UnaryUnaryMultiCallable[node_pb2.ReviewRequest, node_pb2.ReviewReply]
    IssueToken: grpc.aio.UnaryUnaryMultiCallable[node_pb2.IssueTokenRequest, node_pb2.IssueTokenReply]

class NodeServiceServicer:
    async def Sync(self, request_iterator: Any, context: grpc.aio.ServicerContext[node_pb2.AgentMessage, node_pb2.MasterMessage]) -> None: ...
    async def Stream(self, request_iterator: Any, context: grpc.aio.ServicerContext[node_pb2.Frame, node_pb2.Frame]) -> None: ...
    async def Renew(self, request: node_pb2.RenewRequest, context: grpc.aio.ServicerContext[node_pb2.RenewRequest, node_pb2.RenewReply]) -> node_pb2.RenewReply: ...
    async def Review(self, request: node_pb2.ReviewRequest, context: grpc.aio.ServicerContext[node_pb2.ReviewRequest, node_pb2.ReviewReply]) -> node_pb2.ReviewReply: ...
    async def IssueToken(self, request: node_pb2.IssueTokenRequest, context: grpc.aio.ServicerContext[node_pb2.IssueTokenRequest, node_pb2.IssueTokenReply]) -> node_pb2.IssueTokenReply: ...

def add_NodeServiceServicer_to_server(servicer: NodeServiceServicer,
                                      server: grpc.aio.Server) -> None: ...
