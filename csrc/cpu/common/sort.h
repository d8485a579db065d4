// The order of scores: falling, NaN first, 0 and -0 equal, of equals the first; as unsigned integers that rise.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/common/scratch.h"

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

// Returns false where that would take more moves than `most`; then some are sorted and equal keys keep their order.
template <typename Key>
bool insertion_sort(Ranked<Key>* items, int64_t n, int64_t most) {
  for (int64_t i = 1; i < n; ++i) {
    if (items[i - 1].key <= items[i].key) continue;
    const Ranked<Key> item = items[i];
    int64_t j = i;
    for (; j > 0 && items[j - 1].key > item.key; --j) items[j] = items[j - 1];
    items[j] = item;
    if ((most -= i - j) < 0) return false;
  }
  return true;
}

// Stable radix sort by the digits of key - lowest above its `skipped` lowest bits, least significant digit first.
template <int kDigits, typename Key>
void radix_sort(Ranked<Key>* items, int64_t n, Key lowest, int skipped, int width) {
  const int64_t values = int64_t(1) << width;
  const auto digit = [=](const Ranked<Key>& item, int d) {
    return static_cast<int64_t>((item.key - lowest) >> (skipped + d * width)) & (values - 1);
  };
  Scratch<uint32_t> counts(kDigits * values);
  std::memset(counts.data(), 0, sizeof(uint32_t) * static_cast<size_t>(counts.size()));
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < kDigits; ++d) ++counts[d * values + digit(items[i], d)];
  }
  Scratch<Ranked<Key>> other(n);
  Ranked<Key>*from = items, *to = other.data();
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* const places = counts.data() + d * values;
    uint32_t place = 0;
    for (int64_t v = 0; v < values; ++v) {
      const uint32_t count = places[v];
      places[v] = place;
      place += count;
    }
    for (int64_t i = 0; i < n; ++i) to[places[digit(from[i], d)]++] = from[i];
    Ranked<Key>* const swapped = from;
    from = to;
    to = swapped;
  }
  if (from != items) std::memcpy(static_cast<void*>(items), from, sizeof(*items) * static_cast<size_t>(n));
}

// Sorts by rising key, equal keys in the order in which they stand. n is below 2^32. Only the bits in which keys differ
// cost passes, shared out evenly.
template <typename Key>
void stable_sort(Ranked<Key>* items, int64_t n) {
  if (n <= 40) return static_cast<void>(insertion_sort(items, n, n * n));
  Key lowest = items[0].key, highest = lowest;
  for (int64_t i = 1; i < n; ++i) {
    lowest = items[i].key < lowest ? items[i].key : lowest;
    highest = items[i].key > highest ? items[i].key : highest;
  }
  const int bits = highest == lowest ? 0 : 64 - __builtin_clzll(highest - lowest);
  const int most = n <= 2500 ? 8 : 11;  // wide digits cost a walk over 2048 counts each
  if (bits > 2 * most && n <= 100'000) {
    // The upper bits tell nearly all scores apart; insertion puts right the few that they do not.
    radix_sort<2>(items, n, lowest, bits - 2 * most, most);
    if (insertion_sort(items, n, 2 * n)) return;
  }
  const int digits = (bits + most - 1) / most;
  switch (digits) {
    case 0: return;
    case 1: return radix_sort<1>(items, n, lowest, 0, bits);
    case 2: return radix_sort<2>(items, n, lowest, 0, (bits + 1) / 2);
    case 3: return radix_sort<3>(items, n, lowest, 0, (bits + 2) / 3);
    case 4: return radix_sort<4>(items, n, lowest, 0, (bits + 3) / 4);
    default: return radix_sort<8>(items, n, lowest, 0, (bits + 7) / 8);
  }
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
