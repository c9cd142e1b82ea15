import { LineageError } from "./errors.js";

/** Element types, named as PyTorch and NumPy name them. */
export type DType =
  "float32" | "float64" | "float16" | "bfloat16" | "int8" | "uint8" | "int32" | "uint32" | "int64" | "bool";

/** The typed array that views a dtype's memory. 16-bit floats are viewed as their bits, bool as bytes. */
export interface TypedArrayOf {
  float32: Float32Array;
  float64: Float64Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
  int8: Int8Array;
  uint8: Uint8Array;
  int32: Int32Array;
  uint32: Uint32Array;
  int64: BigInt64Array;
  bool: Uint8Array;
}

export type TypedArray = TypedArrayOf[DType];

interface DTypeInfo {
  /** Bytes of one element. */
  readonly bytes: number;
  /** `TensorProto.DataType` and `ONNXTensorElementDataType`, which agree. */
  readonly onnx: number;
  readonly array: new (buffer: ArrayBufferLike, byteOffset: number, length: number) => TypedArray;
  readonly floating: boolean;
}

const info: { readonly [D in DType]: DTypeInfo } = {
  float32: { bytes: 4, onnx: 1, array: Float32Array, floating: true },
  uint8: { bytes: 1, onnx: 2, array: Uint8Array, floating: false },
  int8: { bytes: 1, onnx: 3, array: Int8Array, floating: false },
  int32: { bytes: 4, onnx: 6, array: Int32Array, floating: false },
  uint32: { bytes: 4, onnx: 12, array: Uint32Array, floating: false },
  int64: { bytes: 8, onnx: 7, array: BigInt64Array, floating: false },
  bool: { bytes: 1, onnx: 9, array: Uint8Array, floating: false },
  float16: { bytes: 2, onnx: 10, array: Uint16Array, floating: true },
  float64: { bytes: 8, onnx: 11, array: Float64Array, floating: true },
  bfloat16: { bytes: 2, onnx: 16, array: Uint16Array, floating: true },
};

export const dtypes = Object.keys(info) as DType[];

export const bytesPerElement = (dtype: DType): number => info[dtype].bytes;
export const onnxDataType = (dtype: DType): number => info[dtype].onnx;
export const isFloating = (dtype: DType): boolean => info[dtype].floating;

/** The dtype of an ONNX data type number. Throws `unsupported` for one that lineage does not use. */
export function dtypeOfOnnx(dataType: number): DType {
  const dtype = dtypes.find((name) => info[name].onnx === dataType);
  if (!dtype) throw new LineageError("unsupported", `ONNX data type ${dataType} has no dtype here`);
  return dtype;
}

/** A typed-array view of `length` elements in `buffer`, without a copy. */
export function viewOf<D extends DType>(
  dtype: D,
  buffer: ArrayBufferLike,
  byteOffset: number,
  length: number,
): TypedArrayOf[D] {
  return new info[dtype].array(buffer, byteOffset, length) as TypedArrayOf[D];
}

/** A fresh zeroed typed array of `length` elements. */
export function allocate<D extends DType>(dtype: D, length: number): TypedArrayOf[D] {
  return viewOf(dtype, new ArrayBuffer(length * bytesPerElement(dtype)), 0, length);
}

/** The number of elements of a static shape. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}
