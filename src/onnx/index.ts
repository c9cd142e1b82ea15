export * from "./builder.js";
export * from "./onnx_pb.js";
