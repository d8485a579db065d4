// Test only: the types and the few host functions of the CUDA runtime that launchers and csrc/ops use, on the CPU.
// Device memory is host memory, streams are ignored, and all work is done when a call returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

struct alignas(8) float2 {
  float x, y;
};
struct float3 {
  float x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) double4 {
  double x, y, z, w;
};
struct alignas(2) uchar2 {
  unsigned char x, y;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
struct alignas(4) short2 {
  short x, y;
};
struct alignas(8) short4 {
  short x, y, z, w;
};
struct alignas(4) ushort2 {
  unsigned short x, y;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct int3 {
  int x, y, z;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) longlong2 {
  long long x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

#define EMU_MAKE2(name, type) \
  constexpr name make_##name(type x, type y) { return {x, y}; }
#define EMU_MAKE3(name, type) \
  constexpr name make_##name(type x, type y, type z) { return {x, y, z}; }
#define EMU_MAKE4(name, type) \
  constexpr name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
EMU_MAKE2(float2, float)
EMU_MAKE3(float3, float)
EMU_MAKE4(float4, float)
EMU_MAKE2(double2, double)
EMU_MAKE4(double4, double)
EMU_MAKE2(uchar2, unsigned char)
EMU_MAKE4(uchar4, unsigned char)
EMU_MAKE2(short2, short)
EMU_MAKE4(short4, short)
EMU_MAKE2(ushort2, unsigned short)
EMU_MAKE4(ushort4, unsigned short)
EMU_MAKE2(int2, int)
EMU_MAKE3(int3, int)
EMU_MAKE4(int4, int)
EMU_MAKE2(uint2, unsigned)
EMU_MAKE3(uint3, unsigned)
EMU_MAKE4(uint4, unsigned)
EMU_MAKE2(longlong2, long long)
EMU_MAKE2(ulonglong2, unsigned long long)
#undef EMU_MAKE2
#undef EMU_MAKE3
#undef EMU_MAKE4

enum cudaError_t {  // with the numbers of the real runtime
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
};
typedef struct CUstream_st* cudaStream_t;
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

namespace emu {

// The device that is emulated: the smallest limits of the architectures that the kernels are built for (sm_75), and so
// few multiprocessors that a grid sized by them is smaller than the work.
constexpr int kMaxThreads = 1024;
constexpr int kMultiprocessors = 3;
constexpr int kSharedBytes = 48 << 10;
constexpr int kSharedBytesOptin = 64 << 10;

// The error of the last failed launch, until cudaGetLastError() resets it.
cudaError_t remember(cudaError_t status);
cudaError_t last_error(bool take);

}  // namespace emu

inline cudaError_t cudaGetLastError() { return emu::last_error(true); }
inline cudaError_t cudaPeekAtLastError() { return emu::last_error(false); }
inline const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
  }
  return "unrecognized error code";
}
inline const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
  }
  return "unrecognized error code";
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : emu::remember(cudaErrorInvalidDevice);
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return emu::remember(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = emu::kMaxThreads; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = emu::kSharedBytes; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = 32; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = emu::kMultiprocessors; return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 1024; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 7; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 5; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = emu::kSharedBytesOptin; return cudaSuccess;
  }
  return emu::remember(cudaErrorInvalidValue);
}

// Supports the attribute for more dynamic shared memory only, up to the limit of the device.
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute attribute, int value) {
  const bool fits = attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value <= emu::kSharedBytesOptin;
  return fits ? cudaSuccess : emu::remember(cudaErrorInvalidValue);
}

inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (bytes != 0) std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t = nullptr) {
  return cudaMemset(to, value, bytes);
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes != 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t = nullptr) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
