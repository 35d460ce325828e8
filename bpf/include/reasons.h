/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Generated from bpf/reasons.json by scripts/generate-reasons.mjs (npm run generate). */
#ifndef LB_REASONS_H
#define LB_REASONS_H

enum lb_reason {
	LB_REASON_NONE = 0,
	/* forward: The destination is a service and the flow goes to one of its backends. */
	LB_REASON_FORWARDED = 1,
	/* pass: No service has this destination address, port and protocol, so the flow went on unchanged. */
	LB_REASON_NOT_A_SERVICE = 2,
	/* pass: The attachment does not cover the network namespace of this socket, so the call went on unchanged. */
	LB_REASON_OTHER_NAMESPACE = 3,
	/* pass: An attachment to a nested cgroup has translated this call already, and calls are translated once. */
	LB_REASON_ALREADY_TRANSLATED = 4,
	/* reject: The service has no backend that takes new flows, so the caller was refused at once. */
	LB_REASON_NO_BACKENDS = 5,
	/* drop: The service has no backend that takes new flows, and its onNoBackends is 'drop'. */
	LB_REASON_NO_BACKENDS_DROP = 6,
	/* drop: The traffic policy of the service is Local and none of its backends that take new flows is on this node. */
	LB_REASON_NO_LOCAL_BACKEND = 7,
	/* drop: This unconnected socket talks to more services than can be recorded for one socket. */
	LB_REASON_TOO_MANY_SERVICES = 8,
	/* drop: The kernel had no memory to record the translation of this socket, without which its answers would bear the backend's address. */
	LB_REASON_RECORD_FAILED = 9,
	/* reject: The address and port that the application wants to bind are a node port or host port of a service. */
	LB_REASON_PORT_IN_USE = 10,
	/* drop: The source address is in none of the ranges that the service or its frontend allows. */
	LB_REASON_SOURCE_NOT_ALLOWED = 11,
	/* drop: An index read from the maps is out of range, which is a defect: of this library, or of a program that wrote to its maps. */
	LB_REASON_CORRUPT_INDEX = 12,
	LB_REASON_COUNT = 13, /* of an array indexed by reason */
};

#endif
