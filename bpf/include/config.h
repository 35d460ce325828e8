/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Settings, written by the loader before the verifier sees them: a branch on one of them costs nothing at run time. */
#ifndef LB_CONFIG_H
#define LB_CONFIG_H

#include <linux/types.h>

/* Built once for kernels from 5.12 on, and once for older ones, which refuse atomic instructions that fetch even in dead code. */
#ifndef LB_LEGACY
#define LB_LEGACY 0
#endif

/* Of this kernel. */
const volatile __u8 lb_can_set_retval = 0; /* bpf_set_retval in sock_addr programs (6.1): errors by name instead of EPERM */
const volatile __u8 lb_can_cast = 0;       /* bpf_cast_to_kern_ctx there: the socket's cookie is read without a call */

/* Of the maps. */
const volatile __u32 lb_frontend_mask = 8191; /* lines of lb_frontends, less 1 */
const volatile __u64 lb_frontend_seed = 0;
const volatile __u32 lb_usage_stride = 65537; /* backends in each stripe of lb_usage */
const volatile __u32 lb_stripe_mask = 7;
const volatile __u32 lb_peer4_mask = 8191; /* sets in lb_peers4, less 1 */
const volatile __u32 lb_peer6_mask = 4095;

/* Of the attachment: each has a set of programs of its own. */
const volatile __u32 lb_attachment = 0;
const volatile __u8 lb_all_namespaces = 1; /* else those in lb_netns */

#endif
