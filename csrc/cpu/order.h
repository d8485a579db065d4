// The order of scores: falling, NaN first, 0 and -0 equal, of equals the first; as unsigned integers that rise.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/scratch.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

template <typename T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};
template <typename T>
using key_t = typename KeyOf<T>::type;

// A higher score has a lower key.
template <typename T>
inline __attribute__((always_inline)) key_t<T> falling_key(T score) {
  using Key = key_t<T>;
  constexpr Key sign = Key(1) << (sizeof(Key) * 8 - 1);
  const T zero_is_positive = score + T(0);
  Key bits;
  std::memcpy(&bits, &zero_is_positive, sizeof(bits));
  const Key key = bits & sign ? bits : ~bits & ~sign;
  return score != score ? Key(0) : key;
}

// The score of a key, 0 for -0.
template <typename T>
inline T score_of(key_t<T> key) {
  using Key = key_t<T>;
  constexpr Key sign = Key(1) << (sizeof(Key) * 8 - 1);
  const Key bits = key & sign ? key : ~key & ~sign;
  T score;
  std::memcpy(&score, &bits, sizeof(score));
  return score;
}

template <typename Key>
struct Ranked {
  Key key;
  uint32_t index;
};

template <typename Key>
void insertion_sort(Ranked<Key>* items, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const Ranked<Key> item = items[i];
    int64_t j = i;
    for (; j > 0 && items[j - 1].key > item.key; --j) items[j] = items[j - 1];
    items[j] = item;
  }
}

// Stable radix sort by rising key, least significant digit first. Digits in which all keys agree cost no pass.
template <int kBits, typename Key>
void radix_sort(Ranked<Key>* items, int64_t n) {
  constexpr int kDigits = (sizeof(Key) * 8 + kBits - 1) / kBits, kValues = 1 << kBits;
  Scratch<uint32_t> counts(kDigits * kValues);
  std::memset(counts.data(), 0, sizeof(uint32_t) * kDigits * kValues);
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < kDigits; ++d) ++counts[d * kValues + (items[i].key >> (d * kBits) & (kValues - 1))];
  }
  Scratch<Ranked<Key>> other(n);
  Ranked<Key>*from = items, *to = other.data();
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* places = counts.data() + d * kValues;
    if (places[from[0].key >> (d * kBits) & (kValues - 1)] == n) continue;
    uint32_t place = 0;
    for (int v = 0; v < kValues; ++v) {
      const uint32_t count = places[v];
      places[v] = place;
      place += count;
    }
    for (int64_t i = 0; i < n; ++i) to[places[from[i].key >> (d * kBits) & (kValues - 1)]++] = from[i];
    Ranked<Key>* const swapped = from;
    from = to;
    to = swapped;
  }
  if (from != items) std::memcpy(static_cast<void*>(items), from, sizeof(*items) * static_cast<size_t>(n));
}

// Sorts by rising key, equal keys in the order in which they stand. n is below 2^32.
template <typename Key>
void stable_sort(Ranked<Key>* items, int64_t n) {
  if (n <= 40) {
    insertion_sort(items, n);
  } else if (n <= 2500) {  // wide digits cost a walk over 2048 counts each
    radix_sort<8>(items, n);
  } else {
    radix_sort<11>(items, n);
  }
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
