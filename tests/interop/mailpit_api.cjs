// What tests do with the npm package mailpit-api: `node mailpit_api.cjs URL SMTP_PORT`. It exits with 1 if anything differs.
const assert = require("node:assert/strict");
const nodemailer = require("nodemailer");
const { MailpitClient } = require("mailpit-api");

const [url, port] = process.argv.slice(2);
const mailpit = new MailpitClient(url);
const transport = nodemailer.createTransport({ host: "127.0.0.1", port, pool: true, maxConnections: 10 });

async function messages() {
    const waiting = mailpit.waitForMessage({ query: 'to:bo@example.org subject:"Your bill"' }, { interval: 20, timeout: 30000 });
    await transport.sendMail({
        from: "Ada <ada@example.org>",
        to: '"Bo, B." <bo@example.org>',
        cc: "cy@example.org",
        bcc: "hidden@example.org",
        replyTo: "answers@example.org",
        subject: "Your bill ✓",
        text: "Hello Bo",
        html: '<p>Hello <img src="cid:logo"></p>',
        headers: { "X-Test": "one" },
        attachments: [
            { filename: "bill.pdf", content: "%PDF", contentType: "application/pdf" },
            { filename: "logo.png", content: "PNG", contentType: "image/png", cid: "logo", contentDisposition: "inline" },
        ],
    });
    const message = await waiting;
    assert.deepEqual(message.From, { Name: "Ada", Address: "ada@example.org" });
    assert.deepEqual(message.To, [{ Name: "Bo, B.", Address: "bo@example.org" }]);
    assert.deepEqual(message.Bcc, [{ Name: "", Address: "hidden@example.org" }]);
    assert.equal(message.Subject, "Your bill ✓");
    assert.equal(message.Text.trim(), "Hello Bo");
    assert.equal(message.ReturnPath, "ada@example.org");
    assert.ok(Math.abs(new Date(message.Date) - Date.now()) < 600_000);
    assert.deepEqual(message.Attachments.map((each) => [each.FileName, each.ContentType, each.Size]), [["bill.pdf", "application/pdf", 4]]);
    assert.deepEqual(message.Inline.map((each) => [each.ContentID, each.FileName]), [["logo", "logo.png"]]);

    const blob = await mailpit.getMessageAttachment(message.ID, message.Attachments[0].PartID);
    assert.deepEqual([blob.type, await blob.text()], ["application/pdf", "%PDF"]);
    assert.deepEqual((await mailpit.getMessageHeaders(message.ID))["X-Test"], ["one"]);
    assert.match(await mailpit.getMessageSource(message.ID), /^[A-Za-z-]+: .*\r\n/);
    assert.equal(await mailpit.renderMessageText(), message.Text);
    assert.match(await mailpit.renderMessageHTML(message.ID), new RegExp(`src="/api/v1/message/${message.ID}/part/`));
    assert.equal((await mailpit.getMessageSummary()).ID, message.ID);
}

async function lists() {
    for (let n = 0; n < 3; n++) await transport.sendMail({ from: "ada@example.org", to: "list@example.org", subject: `n${n}`, text: "x" });
    let found = await mailpit.waitForMessages({ query: "to:list@example.org", count: 3, exact: true }, { interval: 20, timeout: 30000 });
    assert.deepEqual(found.messages.map((each) => each.Subject), ["n2", "n1", "n0"]);
    assert.deepEqual([found.count, found.messages_count, found.messages_unread, found.start], [3, 3, 3, 0]);
    assert.equal(found.messages[0].Snippet, "x");
    assert.equal(found.messages[0].Read, false);
    assert.ok(Math.abs(new Date(found.messages[0].Created) - Date.now()) < 600_000);

    found = await mailpit.searchMessages({ query: "to:list@example.org", start: 1, limit: 1, tz: "Europe/Vienna" });
    assert.deepEqual([found.messages[0].Subject, found.count, found.messages_count], ["n1", 1, 3]);
    found = await mailpit.listMessages(0, 2);
    assert.equal(found.messages.length, 2);
    const { total } = found;

    const ids = found.messages.map((each) => each.ID);
    await mailpit.setReadStatus({ IDs: [ids[0]], Read: true });
    await mailpit.setReadStatus({ Search: "to:list@example.org subject:n1", Read: true });
    assert.equal((await mailpit.searchMessages({ query: "to:list@example.org is:unread" })).messages_count, 1);
    await mailpit.setReadStatus();
    assert.equal((await mailpit.listMessages()).unread, total);

    await mailpit.deleteMessages({ IDs: ids });
    assert.equal((await mailpit.listMessages()).total, total - 2);
    await mailpit.deleteMessagesBySearch({ query: "to:list@example.org" });
    assert.equal((await mailpit.listMessages()).total, total - 3);
    await assert.rejects(mailpit.getMessageSummary(ids[0]), /404/);
    await assert.rejects(mailpit.waitForMessage({ query: "to:nobody" }, { interval: 20, timeout: 50 }), /Timeout/);
}

// Each of many tests sees and deletes only its own messages.
async function parallel(test) {
    const query = `to:test-${test}@example.org`;
    for (let n = 0; n < 3; n++) await transport.sendMail({ from: "ada@example.org", to: `test-${test}@example.org`, subject: `${test} ${n}`, text: "x" });
    const found = await mailpit.waitForMessages({ query, count: 3, exact: true }, { interval: 50, timeout: 60000 });
    assert.deepEqual(found.messages.map((each) => each.Subject), [`${test} 2`, `${test} 1`, `${test} 0`]);
    assert.equal((await mailpit.getMessageSummary(found.messages[1].ID)).To[0].Address, `test-${test}@example.org`);
    await mailpit.deleteMessagesBySearch({ query });
    assert.equal((await mailpit.searchMessages({ query })).messages_count, 0);
}

async function chaos() {
    const send = () => transport.sendMail({ from: "ada@example.org", to: "chaos@example.org", subject: "x", text: "x" });
    const off = await mailpit.getChaosTriggers();
    assert.deepEqual(off.Recipient, { ErrorCode: 451, Probability: 0 });
    const set = await mailpit.setChaosTriggers({ Recipient: { ErrorCode: 452, Probability: 100 } });
    assert.deepEqual([set.Recipient.ErrorCode, set.Recipient.Probability, set.Sender.Probability], [452, 100, 0]);
    await assert.rejects(send(), { responseCode: 452 });
    assert.deepEqual(await mailpit.setChaosTriggers(), off);
    await send();
    await mailpit.deleteMessagesBySearch({ query: "to:chaos@example.org" });
    await assert.rejects(mailpit.setChaosTriggers({ Sender: { ErrorCode: 200, Probability: 1 } }), /400 .*ErrorCode/s);
}

async function main() {
    await messages();
    await chaos();
    await lists();
    await Promise.all(Array.from({ length: 40 }, (_, test) => parallel(test)));
    assert.equal((await mailpit.listMessages()).total, 1);
    const info = await mailpit.getInfo();
    assert.deepEqual([info.Messages, info.RuntimeStats.SMTPAccepted], [1, 125]);
    assert.deepEqual([(await mailpit.getConfiguration()).SpamAssassin, (await mailpit.getConfiguration()).ChaosEnabled], [false, true]);
    assert.deepEqual(await mailpit.getTags(), []);
    for (const call of ["htmlCheck", "linkCheck", "spamAssassinCheck"]) await assert.rejects(mailpit[call](), /501/);
    await assert.rejects(mailpit.sendMessage({ From: { Email: "ada@example.org" }, To: [] }), /501 .*SMTP/s);
    assert.equal(await mailpit.deleteMessages(), "ok");
    assert.equal((await mailpit.listMessages()).total, 0);
}

main()
    .then(() => console.log("all calls succeeded"))
    .catch((error) => {
        console.error(error);
        process.exitCode = 1;
    })
    .finally(() => transport.close());
