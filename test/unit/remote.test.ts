import { expect, test } from "vitest";
import { ask } from "../../src/machine/remote.ts";

test("a client that is only slow is reported as slow, whatever it printed", async () => {
  const reply = await ask(["sh", "-c", "echo starting >&2; exec sleep 30"], [], "", 300);
  expect(reply).toMatchObject({ ok: false, timedOut: true, stderr: "no answer within 0.3 s" });
});

test("a client that fails is quoted", async () => {
  expect(await ask(["sh", "-c", "echo no daemon >&2; exit 1"], [])).toMatchObject({
    ok: false,
    timedOut: false,
    stderr: "no daemon",
  });
  expect(await ask(["sh", "-c", "exit 1"], [])).toMatchObject({ ok: false, timedOut: false });
});
