#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_forward_f64, Forward, Plain, Double)
QUICK_SSM_LARGE_ENTRY(quick_ssm_forward_f64, Forward, Plain, Double)
