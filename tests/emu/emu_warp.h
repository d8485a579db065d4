// Test only: warp collectives, atomics and cached loads of device code.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda_runtime_api.h"
#include "emu.h"

namespace emu {

// A value on its way through a collective, as the low bytes of 64 bits.
template <typename T>
inline uint64_t pack(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  uint64_t packed = 0;
  std::memcpy(&packed, &value, sizeof(value));
  return packed;
}
template <typename T>
inline T unpack(uint64_t packed) {
  T value;
  std::memcpy(&value, &packed, sizeof(value));
  return value;
}

// Atomics and loads past L1 are reported to the checked build (check.cpp); they do not race with each other.
#ifdef SSD_OPS_EMU_CHECKED
void note_atomic(const void* address, size_t bytes, const void* caller);
void note_uncached_load(const void* address, size_t bytes, const void* caller);
#define EMU_UNCACHED(address) emu::note_uncached_load(address, sizeof(*(address)), __builtin_return_address(0))
#define EMU_ATOMIC(address) emu::note_atomic(address, sizeof(*(address)), __builtin_return_address(0))
#define EMU_UNCHECKED __attribute__((noinline, no_sanitize("thread")))
#else
#define EMU_UNCACHED(address) static_cast<void>(0)
#define EMU_ATOMIC(address) static_cast<void>(0)
#define EMU_UNCHECKED
#endif

}  // namespace emu

inline void __syncwarp(unsigned mask = 0xffffffffu, emu::Where where = emu::Where::here()) {
  emu::collective(emu::Warp::kSync, mask, 0, 0, warpSize, where);
}

#define EMU_SHUFFLE(name, kind, amount)                                                                           \
  template <typename T>                                                                                           \
  inline T name(unsigned mask, T value, amount by, int width = warpSize, emu::Where where = emu::Where::here()) { \
    return emu::unpack<T>(emu::collective(kind, mask, emu::pack(value), static_cast<int>(by), width, where));     \
  }
EMU_SHUFFLE(__shfl_sync, emu::Warp::kShfl, int)
EMU_SHUFFLE(__shfl_up_sync, emu::Warp::kShflUp, unsigned)
EMU_SHUFFLE(__shfl_down_sync, emu::Warp::kShflDown, unsigned)
EMU_SHUFFLE(__shfl_xor_sync, emu::Warp::kShflXor, int)
#undef EMU_SHUFFLE

#define EMU_VOTE(name, kind, type)                                                                     \
  inline type name(unsigned mask, int predicate, emu::Where where = emu::Where::here()) {              \
    return static_cast<type>(emu::collective(kind, mask, predicate != 0 ? 1 : 0, 0, warpSize, where)); \
  }
EMU_VOTE(__ballot_sync, emu::Warp::kBallot, unsigned)
EMU_VOTE(__all_sync, emu::Warp::kAll, int)
EMU_VOTE(__any_sync, emu::Warp::kAny, int)
#undef EMU_VOTE

template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, emu::Where where = emu::Where::here()) {
  return static_cast<unsigned>(emu::collective(emu::Warp::kMatchAny, mask, emu::pack(value), 0, warpSize, where));
}
template <typename T>
inline unsigned __match_all_sync(unsigned mask, T value, int* all, emu::Where where = emu::Where::here()) {
  const uint64_t lanes = emu::collective(emu::Warp::kMatchAll, mask, emu::pack(value), 0, warpSize, where);
  *all = lanes != 0 ? 1 : 0;
  return static_cast<unsigned>(lanes);
}

// Reductions exist on sm_80 and later only.
#define EMU_REDUCE(name, type, kind)                                                             \
  inline type name(unsigned mask, type value, emu::Where where = emu::Where::here()) {           \
    return emu::unpack<type>(emu::collective(kind, mask, emu::pack(value), 0, warpSize, where)); \
  }
EMU_REDUCE(__reduce_add_sync, int, emu::Warp::kAddSigned)
EMU_REDUCE(__reduce_min_sync, int, emu::Warp::kMinSigned)
EMU_REDUCE(__reduce_max_sync, int, emu::Warp::kMaxSigned)
EMU_REDUCE(__reduce_add_sync, unsigned, emu::Warp::kAdd)
EMU_REDUCE(__reduce_min_sync, unsigned, emu::Warp::kMin)
EMU_REDUCE(__reduce_max_sync, unsigned, emu::Warp::kMax)
EMU_REDUCE(__reduce_and_sync, unsigned, emu::Warp::kAnd)
EMU_REDUCE(__reduce_or_sync, unsigned, emu::Warp::kOr)
EMU_REDUCE(__reduce_xor_sync, unsigned, emu::Warp::kXor)
#undef EMU_REDUCE

// The hardware promises no more than that the caller is active.
inline unsigned __activemask() { return 1u << emu::lane(); }

#define EMU_ATOMIC_OP(name, type, result)                     \
  EMU_UNCHECKED inline type name(type* address, type value) { \
    EMU_ATOMIC(address);                                      \
    const type old = *address;                                \
    *address = static_cast<type>(result);                     \
    return old;                                               \
  }
#define EMU_ATOMIC_INTEGER(type)                                                  \
  EMU_ATOMIC_OP(atomicMin, type, value < old ? value : old)                       \
  EMU_ATOMIC_OP(atomicMax, type, old < value ? value : old)                       \
  EMU_ATOMIC_OP(atomicAnd, type, old& value)                                      \
  EMU_ATOMIC_OP(atomicOr, type, old | value)                                      \
  EMU_ATOMIC_OP(atomicXor, type, old ^ value)                                     \
  EMU_ATOMIC_OP(atomicExch, type, value)                                          \
  EMU_UNCHECKED inline type atomicCAS(type* address, type expected, type value) { \
    EMU_ATOMIC(address);                                                          \
    const type old = *address;                                                    \
    if (old == expected) *address = value;                                        \
    return old;                                                                   \
  }
EMU_ATOMIC_INTEGER(int)
EMU_ATOMIC_INTEGER(unsigned)
EMU_ATOMIC_INTEGER(long long)
EMU_ATOMIC_INTEGER(unsigned long long)
// Atomic addition wraps, also that of int; there is none of long long.
EMU_ATOMIC_OP(atomicAdd, int, static_cast<unsigned>(old) + static_cast<unsigned>(value))
EMU_ATOMIC_OP(atomicAdd, unsigned, old + value)
EMU_ATOMIC_OP(atomicAdd, unsigned long long, old + value)
EMU_ATOMIC_OP(atomicAdd, float, old + value)
EMU_ATOMIC_OP(atomicAdd, double, old + value)
EMU_ATOMIC_OP(atomicSub, int, static_cast<unsigned>(old) - static_cast<unsigned>(value))
EMU_ATOMIC_OP(atomicSub, unsigned, old - value)
EMU_ATOMIC_OP(atomicExch, float, value)
EMU_ATOMIC_OP(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMU_ATOMIC_OP(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
#undef EMU_ATOMIC_INTEGER
#undef EMU_ATOMIC_OP

// Loads and stores that choose a cache; under the sanitizers an address that is not aligned for T is an error here too.
#define EMU_LOAD(name)           \
  template <typename T>          \
  inline T name(const T* from) { \
    return *from;                \
  }
#define EMU_STORE(name)              \
  template <typename T>              \
  inline void name(T* to, T value) { \
    *to = value;                     \
  }
EMU_LOAD(__ldg)
EMU_LOAD(__ldca)
EMU_LOAD(__ldcs)
EMU_LOAD(__ldlu)
#define EMU_UNCACHED_LOAD(name)                \
  template <typename T>                        \
  EMU_UNCHECKED inline T name(const T* from) { \
    EMU_UNCACHED(from);                        \
    return *from;                              \
  }
EMU_UNCACHED_LOAD(__ldcg)
EMU_UNCACHED_LOAD(__ldcv)
#undef EMU_UNCACHED_LOAD
EMU_STORE(__stwb)
EMU_STORE(__stcg)
EMU_STORE(__stcs)
EMU_STORE(__stwt)
#undef EMU_LOAD
#undef EMU_STORE
