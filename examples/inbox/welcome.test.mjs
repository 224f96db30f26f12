// Run `smtp-trio inbox`, `npm install nodemailer`, and `node --test welcome.test.mjs`.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import nodemailer from "nodemailer";

const api = (process.env.INBOX_URL ?? "http://127.0.0.1:8025") + "/api";
const port = Number(process.env.SMTP_PORT ?? 1025);

async function call(method, path, parameters) {
  const url = `${api}${path}?${new URLSearchParams(parameters)}`;
  const response = await fetch(url, { method });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

// Send a message, in the place of your application.
async function signUp(to) {
  const transport = nodemailer.createTransport({ host: "127.0.0.1", port });
  const message = { from: "shop@example.org", subject: "Welcome", text: "Your code is 4711" };
  await transport.sendMail({ ...message, to });
}

test("a welcome message has a code", async () => {
  const address = `${randomUUID()}@example.org`; // no other test sees its mail
  await signUp(address);
  const { messages } = await call("GET", "/wait", { to: address, subject: "Welcome" });
  assert.match(messages[0].text, /Your code is 4711/);
  const found = await call("GET", "/messages", { query: `rcpt:${address}` });
  assert.deepEqual(found.messages.map((each) => each.id), [messages[0].id]);
  const removed = await call("DELETE", "/messages", { query: `rcpt:${address}` });
  assert.deepEqual(removed, { removed: 1 });
});
