// Included before every file of llama.cpp in its AMX build. GCC 12 says that `_tile_loadconfig` reads 8 bytes, where it reads
// 64, and so leaves out the rest of the configuration: the first tile instruction is illegal then.
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])(config)))
