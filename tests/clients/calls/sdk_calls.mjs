// The official clients of OpenAI's and Anthropic's APIs for JavaScript. Addresses and keys come from the environment.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.CLIENTS}/`);
const { default: OpenAI, toFile } = require("openai");
const { default: Anthropic } = require("@anthropic-ai/sdk");

const OPTIONS = { timeout: 120_000, maxRetries: 0 };
const RULES = "You answer in few words, and you never guess what a file holds. ".repeat(60);
const openai = (options = {}) => new OpenAI({ ...OPTIONS, ...options });
const anthropic = (options = {}) => new Anthropic({ ...OPTIONS, ...options });

async function raised(promise) {
  try {
    await promise;
  } catch (error) {
    return { class: error.constructor.name, status: error.status ?? null, message: error.message };
  }
  return { class: "" };
}

const calls = {
  async models() {
    const found = [];
    for await (const model of openai().models.list()) found.push(model.id);
    return found.sort();
  },

  async chat_turns({ name, turns, model = "sim" }) {
    const messages = [{ role: "system", content: `You help ${name}. ${RULES}` }];
    const answers = [];
    for (let turn = 0; turn < turns; turn++) {
      messages.push({ role: "user", content: `Turn ${turn} of ${name}. `.repeat(30) });
      const { data, response } = await openai()
        .chat.completions.create({ model, messages, max_tokens: 8 })
        .withResponse();
      messages.push(data.choices[0].message);
      answers.push({
        instance: response.headers.get("x-dualmap-instance"),
        prompt_tokens: data.usage.prompt_tokens,
        cached_tokens: data.usage.prompt_tokens_details.cached_tokens,
      });
    }
    return answers;
  },

  async chat({ text, model = "sim", options = {} }) {
    const body = { model, max_tokens: 16, messages: [{ role: "user", content: text }] };
    let streamed = "";
    for await (const chunk of await openai(options).chat.completions.create({ ...body, stream: true })) {
      streamed += chunk.choices[0]?.delta.content ?? "";
    }
    const whole = await openai(options).chat.completions.create(body);
    return { whole: whole.choices[0].message.content, streamed };
  },

  async leave_stream({ text, after }) {
    const stream = await openai().chat.completions.create({
      model: "sim",
      max_tokens: 50_000,
      messages: [{ role: "user", content: text }],
      stream: true,
      ignore_eos: true,
    });
    let count = 0;
    for await (const _ of stream) if (++count === after) break;
    return count;
  },

  async responses_turns({ name, turns, model = "sim" }) {
    const answers = [];
    let previous_response_id;
    for (let turn = 0; turn < turns; turn++) {
      const stream = await openai()
        .responses.create({
          model,
          instructions: RULES,
          input: `Turn ${turn} of ${name}. `.repeat(30),
          max_output_tokens: 8,
          stream: true,
          ...(previous_response_id && { previous_response_id }),
        })
        .withResponse();
      let last;
      for await (const event of stream.data) last = event;
      previous_response_id = last.response.id;
      answers.push({
        instance: stream.response.headers.get("x-dualmap-instance"),
        prompt_tokens: last.response.usage.input_tokens,
        cached_tokens: last.response.usage.input_tokens_details.cached_tokens,
      });
    }
    return answers;
  },

  async embeddings({ texts, model = "sim" }) {
    const answer = await openai().embeddings.create({ model, input: texts });
    return answer.data.map((item) => item.embedding.length);
  },

  async audio({ model = "sim" }) {
    const file = await toFile(Buffer.concat([Buffer.from("RIFF"), Buffer.alloc(32_000)]), "a.wav");
    return (await openai().audio.transcriptions.create({ model, file })).text;
  },

  async tool_call({ model }) {
    const stream = openai().chat.completions.stream({
      model,
      max_tokens: 1000,
      temperature: 1.8, // a model of random weights comes to an end of its blanks
      seed: 1,
      messages: [{ role: "user", content: "How is the weather in Ulm?" }],
      tools: [
        {
          type: "function",
          function: {
            name: "get_weather",
            strict: true,
            parameters: {
              type: "object",
              properties: { city: { type: "string", enum: ["Ulm", "Bonn"] } },
              required: ["city"],
              additionalProperties: false,
            },
          },
        },
      ],
      tool_choice: { type: "function", function: { name: "get_weather" } },
    });
    const completion = await stream.finalChatCompletion();
    const call = completion.choices[0].message.tool_calls[0].function;
    return [call.name, call.arguments];
  },

  async messages({ text, model = "sim", options = {} }) {
    const body = { model, max_tokens: 16, messages: [{ role: "user", content: text }] };
    const stream = anthropic(options).messages.stream(body);
    const streamed = (await stream.finalMessage()).content.map((block) => block.text).join("");
    const whole = await anthropic(options).messages.create(body);
    return { whole: whole.content.map((block) => block.text).join(""), streamed };
  },

  async count_tokens({ text, model = "sim" }) {
    const body = { model, messages: [{ role: "user", content: text }] };
    return (await anthropic().messages.countTokens(body)).input_tokens;
  },

  async chat_error({ options = {}, fields = {} }) {
    const body = { model: "sim", max_tokens: 4, messages: [{ role: "user", content: "Hello" }], ...fields };
    return raised(openai(options).chat.completions.create(body));
  },

  async message_error({ options = {}, fields = {} }) {
    const body = { model: "sim", max_tokens: 4, messages: [{ role: "user", content: "Hello" }], ...fields };
    return raised(anthropic(options).messages.create(body));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, given] = JSON.parse(line);
  let answer;
  try {
    answer = { value: await calls[name](given) };
  } catch (error) {
    answer = { error: error.stack };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
