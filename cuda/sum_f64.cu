#include "sum.cuh"

QUICK_SSM_ENTRY(quick_ssm_sum_f64, QUICK_SSM_NAMESPACE::Sum<QUICK_SSM_NAMESPACE::Double>)
