// AVX-512: 24 sums in 32 registers.
#define CHRONOWARD_LEVEL v4
#define CHRONOWARD_ROWS 8
#define CHRONOWARD_PANELS 3
#include "core/decode_kernels.inl"
