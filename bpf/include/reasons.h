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
	/* forward: The packet is an answer of a backend and went on to the client with the service address as its source. */
	LB_REASON_ANSWERED = 13,
	/* forward: The ICMP message is about a connection through a service and went to the end that it concerns, with the packet in it translated back. */
	LB_REASON_ICMP_RELATED = 14,
	/* forward: An echo request to a service address was answered here. */
	LB_REASON_ECHO_ANSWERED = 15,
	/* forward: An encapsulated packet of a peer was unwrapped and went to a backend of this node. */
	LB_REASON_DECAPSULATED = 16,
	/* pass: The packet is none that can belong to a service: not IPv4 or IPv6, another protocol, or cut short. It went on unchanged. */
	LB_REASON_NOT_BALANCED = 17,
	/* pass: XDP cannot handle this packet (it is for a local backend, has no known neighbour, or needs what only tc can do), so it went on to tc and the stack. */
	LB_REASON_HANDED_OVER = 18,
	/* pass: An encapsulated packet came from an address that is none of the peers, so it was not unwrapped. */
	LB_REASON_NOT_A_PEER = 19,
	/* drop: The table of connections has no place for a new connection: the ways that it may use are held by established ones. */
	LB_REASON_CONNECTIONS_FULL = 20,
	/* drop: No source port was free for a new connection to this backend. */
	LB_REASON_SNAT_PORTS_EXHAUSTED = 21,
	/* drop: The source has to become an address of this node, and none of this family is known. */
	LB_REASON_NO_NODE_ADDRESS = 22,
	/* drop: The routing table has no way to the backend or the client. */
	LB_REASON_NO_ROUTE = 23,
	/* drop: IP forwarding is off on the device that the packet came in by. */
	LB_REASON_FORWARDING_DISABLED = 24,
	/* drop: The packet does not fit through the way to the backend or the client and may not be fragmented; its sender was told the size that does. */
	LB_REASON_TOO_BIG = 25,
	/* drop: The packet has made as many hops as it may; its sender was told. */
	LB_REASON_HOP_LIMIT = 26,
	/* drop: A later fragment came without its first one, which has the ports. */
	LB_REASON_FRAGMENT_WITHOUT_FIRST = 27,
	/* drop: An SCTP packet came in fragments and needs other ports, which its checksum covers together with all the rest of it. */
	LB_REASON_SCTP_PORT = 28,
	/* drop: The backend's port is another than the frontend's, and the DSR dispatch 'l2' leaves packets as they are. */
	LB_REASON_DSR_PORT = 29,
	/* drop: The packet was to be refused with a TCP reset or an ICMP error, and more of these were due than are sent in a second. */
	LB_REASON_ANSWER_LIMITED = 30,
	/* drop: The packet came from outside with a source that is a service address, this node's own, or nobody's. */
	LB_REASON_SOURCE_IS_OURS = 31,
	/* drop: The address is in the node's serviceCIDRs, and no service has it. */
	LB_REASON_NO_SUCH_SERVICE = 32,
	/* reject: The address is a service's and in the node's serviceCIDRs, and no service has this port of it by this protocol. */
	LB_REASON_NO_SUCH_PORT = 33,
	/* reject: The connection's backend was removed, and onBackendRemoved of its service ends such connections. */
	LB_REASON_BACKEND_REMOVED = 34,
	LB_REASON_COUNT = 35, /* of an array indexed by reason */
};

#endif
