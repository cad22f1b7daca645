// Uploads FILE to ENDPOINT with the access token TOKEN, as tus-js-client does by itself: in requests of CHUNK bytes, and
// again where it left off whenever a request fails. Or, if URL is set, goes on with that upload. On success it prints, as
// JSON, where the upload is and every answer that it got.
import { createReadStream } from 'node:fs'
import { Upload } from 'tus-js-client'

const { ENDPOINT: endpoint, TOKEN: token, FILE: file, URL: url, CHUNK: chunk } = process.env
const answers = []
let failures = 0

const upload = new Upload(createReadStream(file), {
  endpoint,
  uploadUrl: url || null,
  chunkSize: Number(chunk),
  retryDelays: Array(30).fill(200),
  headers: { Authorization: `Bearer ${token}` },
  metadata: { filename: 'großes Ω.bin', filetype: 'application/x-test' },
  onAfterResponse: (request, response) => {
    answers.push({ method: request.getMethod(), status: response.getStatus(), offset: Number(response.getHeader('Upload-Offset') ?? -1) })
  },
  onShouldRetry: (error) => {
    failures++
    const status = error.originalResponse?.getStatus() ?? 0
    return status < 400 || status >= 500 || status === 409 || status === 423 // as it does without this function
  },
  onError: (error) => {
    console.error(String(error), JSON.stringify(answers))
    process.exitCode = 1
  },
  onSuccess: () => console.log(JSON.stringify({ url: upload.url, failures, answers })),
})
upload.start()
