// The commands of the npm package cypress-mailpit, without Cypress: `node cypress_mailpit.cjs URL SMTP_PORT TOKEN`.
//
// Cypress is a program of some hundred megabytes. The package consists of functions that call `cy.request` and few other
// commands, so these are defined here as Cypress documents them: promises in the place of its chains, `fetch` in the place of
// its requests. A status other than 2xx and 3xx is an error, as it is there.
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const nodemailer = require("nodemailer");

const [url, port, token] = process.argv.slice(2);
const commands = {};
globalThis.Cypress = {
    expose: (name) => ({ MAILPIT_URL: url })[name],
    config: (name) => ({ defaultCommandTimeout: 4000 })[name],
    Commands: { add: (name, options, command) => (commands[name] = command) },
};
globalThis.cy = {
    env: async () => ({ MAILPIT_USERNAME: "test", MAILPIT_PASSWORD: token }),
    wrap: async (value) => value,
    wait: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
    async request({ method, url, qs = {}, body, auth }) {
        const target = new URL(url);
        for (const [name, value] of Object.entries(qs)) target.searchParams.set(name, value);
        const headers = { Authorization: `Basic ${Buffer.from(`${auth.user}:${auth.pass}`).toString("base64")}` };
        if (body !== undefined) headers["Content-Type"] = "application/json";
        const response = await fetch(target, { method, headers, body: JSON.stringify(body) });
        const text = await response.text();
        if (response.status >= 400) throw new Error(`${response.status}: ${text}`);
        const isJson = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
        return { status: response.status, body: isJson ? JSON.parse(text) : text };
    },
};

// The package has the syntax of modules, but does not say so in its package.json: bundlers read it nevertheless, Node does not.
const folder = path.dirname(require.resolve("cypress-mailpit"));
const source = ["src/MailpitCommands.js", "index.js"].map((name) => fs.readFileSync(path.join(folder, name), "utf8")).join("\n");
new Function(source.replace(/^(import|export) .*$/gm, ""))();

async function main() {
    const send = (message) => transport.sendMail({ from: "Ada <ada@example.org>", text: "Hello", ...message });
    const transport = nodemailer.createTransport({ host: "127.0.0.1", port });
    const attachments = [{ filename: "bill.pdf", content: "%PDF" }];
    await commands.mailpitNotHasEmailsByTo("bo@example.org");
    const waiting = commands.mailpitHasEmailsBySubject("Bill", 0, 50, { interval: 20, timeout: 30000 });
    await send({ to: "bo@example.org, cy@example.org", subject: "Bill", html: "<b>Hello</b>", attachments });
    assert.equal((await waiting).messages_count, 1);
    await send({ to: "dee@example.org", subject: "Other" });

    const all = await commands.mailpitGetAllMails();
    assert.deepEqual(all.messages.map((each) => each.Subject), ["Other", "Bill"]);
    assert.deepEqual([all.messages_count, all.total, all.count, all.unread, all.start, all.tags], [2, 2, 2, 2, 0, []]);
    const found = await commands.mailpitSearchEmails("to:bo@example.org");
    const message = await commands.mailpitGetMail(found.messages[0].ID);
    assert.equal(await commands.mailpitGetSubject(message), "Bill");
    assert.deepEqual(await commands.mailpitGetRecipientAddress(message), ["bo@example.org", "cy@example.org"]);
    assert.equal(await commands.mailpitGetFromAddress(message), "ada@example.org");
    assert.deepEqual(await commands.mailpitGetAttachments(message), ["bill.pdf"]);
    assert.equal((await commands.mailpitGetMailHTMlBody(message)).trim(), "<b>Hello</b>");
    assert.equal((await commands.mailpitGetMailTextBody(message)).trim(), "Hello");

    const unread = async () => (await commands.mailpitGetAllMails()).unread;
    assert.equal(await unread(), 1);
    await commands.mailpitSetStatusAsUnRead(message);
    assert.equal(await unread(), 2);
    await commands.mailpitSetStatusAsRead(all.messages);
    assert.equal(await unread(), 0);
    await commands.mailpitSetAllEmailStatusAsUnRead();
    assert.equal(await unread(), 2);
    await commands.mailpitSetAllEmailStatusAsRead();
    assert.equal(await unread(), 0);

    await assert.rejects(commands.mailpitGetMailSpamAssassinSummary(message), /501/);
    await assert.rejects(commands.mailpitSendMail(), /501.*SMTP/);
    await commands.mailpitHasEmailsByTo("dee@example.org");
    await commands.mailpitDeleteEmailsBySearch("to:dee@example.org");
    await commands.mailpitNotHasEmailsBySubject("Other");
    await commands.mailpitNotHasEmailsBySearch("to:dee@example.org");
    assert.equal((await commands.mailpitGetEmailsByTo("bo@example.org")).count, 1);
    assert.equal((await commands.mailpitGetEmailsBySubject("Bill")).count, 1);
    await commands.mailpitDeleteAllEmails();
    assert.equal((await commands.mailpitGetAllMails()).total, 0);
}

main()
    .then(() => console.log("all commands succeeded"))
    .catch((error) => {
        console.error(error);
        process.exitCode = 1;
    });
