// See Note [Code for one instruction set] in bits_cpu.h.
// clang-format off: what is used comes before what uses it.
#include "ops/samples.h"
#include "ops/bit_columns.h"
#include "ops/counts_writer.h"
#include "ops/dense_rle.h"
#include "ops/tap.h"
#include "ops/taps.h"
#include "ops/mask_rows.h"
#include "ops/label_rows.h"
#include "ops/dense_labels.h"
// clang-format on
