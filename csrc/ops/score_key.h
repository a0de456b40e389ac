// No include guard: files include this inside their own namespaces. For a GPU VD_INLINE says that functions run there.
#ifndef VD_INLINE
#define VD_INLINE static inline
#endif

// Ascending keys are descending scores; NaN comes before all. No score's key is all ones.
template <class Key, class T>
VD_INLINE Key key_of(T score) {
  if (score != score) return 0;
  score += T{0};  // minus zero becomes zero
  Key bits;
  std::memcpy(&bits, &score, sizeof(bits));
  constexpr Key kSign = Key{1} << (8 * sizeof(Key) - 1);
  return bits & kSign ? bits : ~(bits | kSign);
}
