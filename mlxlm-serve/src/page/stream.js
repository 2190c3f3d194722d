// A chat with the server: what is said comes piece by piece.

// The headers of a request; the key is this tab's only.
export function headers() {
  const key = sessionStorage.getItem("mlxlm.key");
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

// Asks for JSON; nothing where there is none.
export async function ask(path) {
  const answer = await fetch(path, { headers: headers() });
  if (!answer.ok) return answer.status === 404 ? null : Promise.reject(new Error(await reason(answer)));
  return answer.json();
}

async function reason(answer) {
  const body = await answer.json().catch(() => null);
  const message = body?.error?.message ?? `the server answered ${answer.status}`;
  return answer.status === 401 ? `${message}\nThe key goes into the settings.` : message;
}

// Lets the server answer, and calls `hear` with each piece: `{read, total}` while the prompt is read, `{text}`, `{reasoning}`,
// `{call: {index, id, name, text}}`, and at the end `{finish}` and `{usage}`.
export async function chat(body, signal, hear) {
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const answer = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(request), signal });
  if (!answer.ok) throw new Error(await reason(answer));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith(": keepalive ")) {
        const [read, total] = line.slice(12).split("/").map(Number);
        if (total) hear({ read, total });
      } else if (line.startsWith("data: ") && line !== "data: [DONE]") {
        take(JSON.parse(line.slice(6)), hear);
      }
    }
  }
}

function take(chunk, hear) {
  if (chunk.error) throw new Error(chunk.error.message);
  if (chunk.usage) hear({ usage: chunk.usage });
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning, tool_calls } = choice.delta ?? {};
  if (reasoning) hear({ reasoning });
  if (content) hear({ text: content });
  for (const call of tool_calls ?? []) {
    hear({ call: { index: call.index, id: call.id, name: call.function?.name, text: call.function?.arguments ?? "" } });
  }
  if (choice.finish_reason) hear({ finish: choice.finish_reason });
}
