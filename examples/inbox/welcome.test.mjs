// Run `smtp-trio inbox`, `npm install nodemailer`, and `node --test welcome.test.mjs`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createTransport } from "nodemailer";

const api = `http://127.0.0.1:${process.env.HTTP_PORT ?? 8025}/api`;
const call = async (path, options) => (await fetch(api + path, options)).json();
const smtp = createTransport(`smtp://127.0.0.1:${process.env.SMTP_PORT ?? 1025}`);

test("a welcome message has a code", async () => {
  const to = `${crypto.randomUUID()}@example.org`; // no other test sees its mail
  const text = "Your code is 4711";
  await smtp.sendMail({ from: "shop@example.org", to, subject: "Welcome", text });
  const { messages } = await call(`/wait?to=${to}&subject=Welcome`);
  assert.match(messages[0].text, /Your code is 4711/);
  const found = await call(`/messages?query=rcpt:${to}`);
  assert.deepEqual(found.messages.map((each) => each.id), [messages[0].id]);
  const removed = await call(`/messages?query=rcpt:${to}`, { method: "DELETE" });
  assert.deepEqual(removed, { removed: 1 });
});
