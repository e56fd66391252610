// The basic path by the TypeScript client: models, files, chat whole and streamed, an error.
// node basic.mjs BASE_URL KEY MODEL; prints what came as one line of JSON.
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 1 });
const messages = [{ role: "user", content: "Say hello." }];

const names = [];
for await (const one of client.models.list()) names.push(one.id);

const line = JSON.stringify({
  custom_id: "1",
  method: "POST",
  url: "/v1/chat/completions",
  body: { model, messages },
});
const file = await client.files.create({
  file: await toFile(Buffer.from(`${line}\n`), "requests.jsonl"),
  purpose: "batch",
});
const content = await (await client.files.content(file.id)).text();
await client.files.delete(file.id);

const whole = await client.chat.completions.create({
  model,
  messages,
  max_tokens: 5,
  temperature: 0,
});
const stream = await client.chat.completions.create({
  model,
  messages,
  max_tokens: 5,
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "";
let usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

let refused = null;
try {
  await client.chat.completions.create({ model: "nobody", messages });
} catch (error) {
  refused = { status: error.status, code: error.code, param: error.param };
}

console.log(
  JSON.stringify({
    names,
    purpose: file.purpose,
    same: content === `${line}\n`,
    whole: whole.choices[0].message.content,
    streamed,
    usage: [whole.usage.completion_tokens, usage.completion_tokens],
    refused,
  }),
);
