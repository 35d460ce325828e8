// SPDX-License-Identifier: Apache-2.0
// Bounds the count of writes in tests: see scripts of the kill test. Nothing unless built with LB_STOP_POINTS.
#pragma once

namespace lb {

#if LB_STOP_POINTS
void stop_point();
#else
inline void stop_point() {}
#endif

}  // namespace lb
