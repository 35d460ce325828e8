/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the program that looks up (lookups.bpf.c) and the one that runs it (lookups.c) share. */
#ifndef PROBE_LOOKUPS_H
#define PROBE_LOOKUPS_H

/* Of one thread. */
struct lookups_count {
	unsigned long long lookups;
	unsigned long long missed; /* the service was not there, or had no backend */
	unsigned long long foreign; /* the answer is a backend of another service, or of none */
	unsigned long long backwards; /* the answer is older than one given before, by any service */
	unsigned int newest; /* commit */
	unsigned int random;
};

#define LOOKUPS_THREADS 64

#endif
