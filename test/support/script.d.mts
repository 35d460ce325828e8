import type { LoadBalancer } from 'ebpf-lb';
export declare const steps: ((lb: LoadBalancer) => unknown)[];
export declare function stateOf(lb: LoadBalancer): string;
