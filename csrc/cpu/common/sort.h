// Stable sorting of keys with their indices; for scores see core/ordered_key.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/ordered_key.h"
#include "cpu/common/scratch.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// A key and the index of the item it belongs to.
template <typename Key>
struct KeyIndex {
  Key key;
  uint32_t index;
};

// Returns false if sorting would take more than `max_moves` moves; then the items are partially sorted, and equal keys
// are still in order.
template <typename Key>
bool insertion_sort(KeyIndex<Key>* items, int64_t n, int64_t max_moves) {
  for (int64_t i = 1; i < n; ++i) {
    if (items[i - 1].key <= items[i].key) continue;
    const KeyIndex<Key> item = items[i];
    int64_t j = i;
    for (; j > 0 && items[j - 1].key > item.key; --j) items[j] = items[j - 1];
    items[j] = item;
    if ((max_moves -= i - j) < 0) return false;
  }
  return true;
}

// Stable radix sort, least significant digit first, by kDigits digits of `width` bits of key - lowest, above its
// `skipped` lowest bits.
template <int kDigits, typename Key>
void radix_sort(KeyIndex<Key>* items, int64_t n, Key lowest, int skipped, int width) {
  const int64_t radix = int64_t(1) << width;
  const auto digit = [=](const KeyIndex<Key>& item, int d) {
    return static_cast<int64_t>((item.key - lowest) >> (skipped + d * width)) & (radix - 1);
  };
  Scratch<uint32_t> counts(kDigits * radix);
  std::memset(counts.data(), 0, sizeof(uint32_t) * static_cast<size_t>(counts.size()));
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < kDigits; ++d) ++counts[d * radix + digit(items[i], d)];
  }
  Scratch<KeyIndex<Key>> other(n);
  KeyIndex<Key>*from = items, *to = other.data();
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* const offsets = counts.data() + d * radix;
    uint32_t offset = 0;
    for (int64_t v = 0; v < radix; ++v) {
      const uint32_t count = offsets[v];
      offsets[v] = offset;
      offset += count;
    }
    for (int64_t i = 0; i < n; ++i) to[offsets[digit(from[i], d)]++] = from[i];
    KeyIndex<Key>* const swapped = from;
    from = to;
    to = swapped;
  }
  if (from != items) std::memcpy(static_cast<void*>(items), from, sizeof(*items) * static_cast<size_t>(n));
}

// Sorts by ascending key; equal keys keep their order. n is below 2^32. There are passes only for the bits in which
// keys differ, in digits of equal width.
template <typename Key>
void stable_sort(KeyIndex<Key>* items, int64_t n) {
  if (n <= 40) return static_cast<void>(insertion_sort(items, n, n * n));
  Key lowest = items[0].key, highest = lowest;
  for (int64_t i = 1; i < n; ++i) {
    lowest = items[i].key < lowest ? items[i].key : lowest;
    highest = items[i].key > highest ? items[i].key : highest;
  }
  const int bits = highest == lowest ? 0 : 64 - __builtin_clzll(highest - lowest);
  const int max_width = n <= 2500 ? 8 : 11;  // a pass over wide digits scans 2048 counts
  if (bits > 2 * max_width && n <= 100'000) {
    // The upper bits order nearly all scores; insertion sort corrects the rest.
    radix_sort<2>(items, n, lowest, bits - 2 * max_width, max_width);
    if (insertion_sort(items, n, 2 * n)) return;
  }
  const int digits = (bits + max_width - 1) / max_width;
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
