import { type Endpoint, LoadBalancer, type OpenOptions } from 'ebpf-lb';
import { Lab, type LabServer } from 'ebpf-lb/lab';
import { Client } from './client.js';

/** Acceptance runs (`npm run accept`) take the full count, everyday ones a sample. */
export const full = process.env['EBPF_LB_FULL'] === '1';
/** Emulated kernels are slower: deadlines are multiplied. */
export const slow = Number(process.env['EBPF_LB_SLOW'] ?? 1);

const tellsErrors = LoadBalancer.probe().features['set-retval']?.support === 'supported';
/** What an application gets for a rejected and a dropped connect; before kernel 6.1 both are EPERM. */
export const REJECTED = tellsErrors ? 'ECONNREFUSED' : 'EPERM';
export const DROPPED = tellsErrors ? 'EHOSTUNREACH' : 'EPERM';

export const families = [
  { family: 4 as const, name: 'IPv4', vip: '10.96.0.1', other: '10.96.0.2', mapped: (address: string) => address },
  { family: 6 as const, name: 'IPv6', vip: 'fd00:96::1', other: 'fd00:96::2', mapped: (address: string) => address },
];

/** A lab of two namespaces, a balancer on its cgroup only, and a client in one of them. */
export class Fixture {
  readonly #servers: LabServer[] = [];

  private constructor(
    readonly lab: Lab,
    readonly lb: LoadBalancer,
    readonly client: Client,
  ) {}

  static async create(options: OpenOptions = {}): Promise<Fixture> {
    const lab = await Lab.create({ namespaces: ['client', 'server'] });
    try {
      const lb = await LoadBalancer.open(options);
      await lb.attachCgroup(lab.cgroup);
      return new Fixture(lab, lb, new Client(lab, 'client'));
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  async serveHttp(port: number, body?: string, family: 4 | 6 = 4): Promise<LabServer> {
    const options = { address: this.lab.address('server', family), ...(body === undefined ? {} : { body }) };
    const server = await this.lab.serveHttp('server', port, options);
    this.#servers.push(server);
    return server;
  }

  async serveUdp(port: number, family: 4 | 6 = 4): Promise<LabServer> {
    const server = await this.lab.serveUdp('server', port, { address: this.lab.address('server', family) });
    this.#servers.push(server);
    return server;
  }

  /** After each test: no services, no servers. */
  async reset(): Promise<void> {
    await this.lb.apply([]);
    await Promise.all(this.#servers.splice(0).map((server) => server.stop()));
  }

  async close(): Promise<void> {
    this.client.end();
    await this.lb.close();
    await this.lab.close();
  }
}

export const endpoint = ({ address, port }: Endpoint): Endpoint => ({ address, port });

export async function until(what: string, done: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs * slow;
  while (!(await done())) {
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs * slow} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Pearson's statistic of counts against expected shares. */
export function chiSquared(counts: number[], shares: number[]): number {
  const total = counts.reduce((a, b) => a + b, 0);
  const sum = shares.reduce((a, b) => a + b, 0);
  return counts.reduce((x, n, i) => {
    const expected = (total * (shares[i] ?? 0)) / sum;
    return x + (n - expected) ** 2 / expected;
  }, 0);
}
