// `ebpf-lb/lab`: network labs in namespaces and cgroups of their own.
export { type HttpOptions, Lab, type UdpOptions } from './lab.js';
export type { LabOptions, LinkOptions } from './plan.js';
export { CommandError, type RunOptions } from './run.js';
export type { LabServer } from './server.js';
