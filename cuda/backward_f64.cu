#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_backward_f64, Backward, Plain, Double)
