/** Global set-up of the test folders that load programs into the kernel. */
export default function requireRoot(): void {
  if (process.platform === 'linux' && process.getuid?.() === 0) return;
  console.error(
    process.platform === 'linux'
      ? 'The tests load programs into the kernel: run them as root. `npm test -- --project unit --project types` needs no privileges.'
      : `The tests need Linux, this is ${process.platform}.`,
  );
  // An exception would be reported as "no test files found", with the message in the middle of stack traces.
  process.exit(1);
}
