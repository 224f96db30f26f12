// Run `smtp-trio inbox`, `npm install nodemailer`, and then `node --test welcome.test.mjs`.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import nodemailer from "nodemailer";

const api = (process.env.INBOX_URL ?? "http://127.0.0.1:8025") + "/api";
const smtp = { host: "127.0.0.1", port: Number(process.env.SMTP_PORT ?? 1025), ignoreTLS: true };

async function call(method, path, parameters) {
  const response = await fetch(`${api}${path}?${new URLSearchParams(parameters)}`, { method });
  assert.ok(response.ok, `${response.status} ${await response.clone().text()}`);
  return response.json();
}

// Send a message, in the place of your application.
const signUp = (to) =>
  nodemailer.createTransport(smtp).sendMail({ from: "shop@example.org", to, subject: "Welcome", text: "Your code is 4711" });

test("a welcome message has a code", async () => {
  const address = `${randomUUID()}@example.org`; // a test with an address of its own sees no mail of other tests
  await signUp(address);
  const { messages } = await call("GET", "/wait", { to: address, subject: "Welcome" });
  assert.match(messages[0].text, /Your code is 4711/);
  const found = await call("GET", "/messages", { query: `rcpt:${address}` });
  assert.deepEqual(found.messages.map((each) => each.id), [messages[0].id]);
  assert.deepEqual(await call("DELETE", "/messages", { query: `rcpt:${address}` }), { removed: 1 });
});
